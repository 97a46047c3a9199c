// ggml's RPC backend: devices of other machines, and lending this machine's devices to others. The protocol has no
// authentication; who may connect is decided above.
//
// ggml aborts the process when a worker can't be reached, speaks another version or goes away: check a worker before
// it is added (donabe.devices.rpc), and expect the process to end when one is lost.
#pragma once

#include <string>
#include <vector>

namespace donabe {

// "major.minor.patch" of the protocol this build speaks.
std::string rpc_protocol_version();

// Make the devices of the worker at "host:port" (IPv4 or a name) known to devices_list and devices_find, and keep one
// connection to it until the process ends. A worker that was added already is left alone. Throws load, unsupported.
void rpc_add_worker(const std::string & endpoint);

// Serve one connected peer with these devices until it leaves. `connection` is a connected TCP socket, which is closed.
// `cache_dir`: an existing folder for large tensors, "" for none. Blocks; call it once in a process that does nothing
// else. Throws load, invalid_argument, unsupported.
void rpc_serve_connection(int connection, const std::vector<std::string> & devices, int n_threads,
                          const std::string & cache_dir);

// Whether a file of the cache holds what its name, the hash of its content, says. Throws load if it can't be read.
bool rpc_cache_file_is_sound(const std::string & path);

} // namespace donabe
