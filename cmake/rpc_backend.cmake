# ggml's RPC backend, in every build: linked in, or a library beside the others. Upstream's GGML_RPC would define a macro for
# everything that uses ggml; donabe registers the devices of a worker itself (csrc/rpc.cpp), so the backend stands apart.
#
# Its socket calls are redirected to csrc/rpc/rpc_sockets.cpp by renaming them: upstream's files stay as they are.

set(GGML_RPC_RDMA OFF CACHE INTERNAL "") # would need a library that few machines have
find_package(Threads REQUIRED)

function(donabe_add_rpc_backend)
  # What ggml's own folder sets, and ggml_add_backend_library expects.
  set(GGML_VERSION "${PROJECT_VERSION}") # names no file: CMAKE_PLATFORM_NO_VERSIONED_SONAME
  set(GGML_VERSION_MAJOR "${PROJECT_VERSION_MAJOR}")
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
  add_subdirectory("${DONABE_GGML_DIR}/ggml/src/ggml-rpc" vendor/ggml-rpc EXCLUDE_FROM_ALL)
endfunction()
donabe_add_rpc_backend()

target_link_libraries(ggml-rpc PRIVATE Threads::Threads)
if(NOT WIN32)
  # C++ methods of the same names are renamed along with the calls, in both files that know them.
  set(renamed accept=donabe_rpc_accept connect=donabe_rpc_connect listen=donabe_rpc_listen)
  set_source_files_properties("${DONABE_GGML_DIR}/ggml/src/ggml-rpc/transport.cpp"
                              "${DONABE_GGML_DIR}/ggml/src/ggml-rpc/ggml-rpc.cpp"
                              TARGET_DIRECTORY ggml-rpc PROPERTIES COMPILE_DEFINITIONS "${renamed}")
  target_sources(ggml-rpc PRIVATE "${PROJECT_SOURCE_DIR}/csrc/rpc/rpc_sockets.cpp")
endif()
