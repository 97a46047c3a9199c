// The socket calls of ggml's RPC backend, which is compiled with accept, connect and listen renamed to these (see
// cmake/rpc_backend.cmake): deadlines where it has none, and serving a connection that another process has accepted.
// Part of the backend library; knows nothing else of donabe.
#include <cerrno>
#include <cstdlib>
#include <system_error>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

namespace {

constexpr int idle_s = 10; // without traffic, before the peer is asked whether it is there
constexpr int probe_interval_s = 5;
constexpr int n_probes = 3;
constexpr int unacknowledged_ms = 25000; // what was sent and not acknowledged for so long ends the connection
constexpr int connect_s = 10;

constexpr const char * connection_variable =
    "DONABE_RPC_CONNECTION"; // a connected socket, set in a process that serves one

void set_option(int fd, int level, int option, int value) {
    setsockopt(fd, level, option, &value, sizeof(value));
}

// A peer whose machine or network went away sends nothing that would say so.
void notice_lost_peer(int fd) {
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#if defined(TCP_KEEPIDLE)
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle_s);
#elif defined(TCP_KEEPALIVE)
    set_option(fd, IPPROTO_TCP, TCP_KEEPALIVE, idle_s);
#endif
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, probe_interval_s);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, n_probes);
#if defined(TCP_USER_TIMEOUT)
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, unacknowledged_ms);
#endif
}

void set_send_deadline(int fd, int seconds) {
    const timeval deadline{seconds, 0};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof(deadline));
}

} // namespace

extern "C" {

// The connection of the variable, once; then a std::system_error (connection_aborted), which ends the backend's loop.
int donabe_rpc_accept(int fd, sockaddr * address, socklen_t * length) {
    static bool is_given = false;
    const char * connection = std::getenv(connection_variable);
    if (connection == nullptr) {
        return accept(fd, address, length);
    }
    if (is_given) {
        throw std::system_error(std::make_error_code(std::errc::connection_aborted));
    }
    is_given = true;
    const int given = std::atoi(connection);
    notice_lost_peer(given);
    return given;
}

int donabe_rpc_listen(int fd, int backlog) {
    return std::getenv(connection_variable) == nullptr ? listen(fd, backlog) : 0; // nobody is to find this socket
}

int donabe_rpc_connect(int fd, const sockaddr * address, socklen_t length) {
    notice_lost_peer(fd);
    set_send_deadline(fd, connect_s); // Linux applies it to connect, too
    const int result = connect(fd, address, length);
    const int error = errno;
    set_send_deadline(fd, 0);
    errno = error;
    return result;
}
}
