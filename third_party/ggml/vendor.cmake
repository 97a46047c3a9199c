# Obtains the pinned llama.cpp + ggml source and sets DONABE_GGML_DIR to it.
#
# Order: -DDONABE_GGML_SOURCE=DIR (used as it is, never patched) > third_party/ggml/llama.cpp (present in our own sdist,
# already patched) > the shared cache, filled through the package index on first use.
#
# The cache folder's name is a hash of the pin and of every patch, so a changed patch never meets an old tree, and the
# tree appears under that name only when it is whole (unpacked and patched under a temporary name, then renamed).

set(DONABE_GGML_SOURCE "" CACHE PATH "An unpacked llama.cpp tree to build instead of the pinned one")
option(DONABE_GGML_UNPATCHED "The pinned tree without our patches (but one that keeps it running): only for upstream's programs, as a peer in benchmarks" OFF)

function(donabe_cache_dir out)
  if(DEFINED ENV{DONABE_CACHE_DIR})
    set(dir "$ENV{DONABE_CACHE_DIR}")
  elseif(DEFINED ENV{XDG_CACHE_HOME})
    set(dir "$ENV{XDG_CACHE_HOME}/donabe")
  elseif(WIN32)
    set(dir "$ENV{LOCALAPPDATA}/donabe/cache")
  else()
    set(dir "$ENV{HOME}/.cache/donabe")
  endif()
  file(TO_CMAKE_PATH "${dir}" dir)
  set(${out} "${dir}" PARENT_SCOPE)
endfunction()

function(donabe_apply_patch tree patch)
  find_program(DONABE_PATCH_EXECUTABLE patch)
  find_program(DONABE_GIT_EXECUTABLE git)
  mark_as_advanced(DONABE_PATCH_EXECUTABLE DONABE_GIT_EXECUTABLE)
  if(DONABE_PATCH_EXECUTABLE)
    set(command "${DONABE_PATCH_EXECUTABLE}" -p1 --batch --forward -i "${patch}")
  elseif(DONABE_GIT_EXECUTABLE)
    # Without a ceiling git would take a repository above the cache for ours and skip every file in silence.
    get_filename_component(above "${tree}" DIRECTORY)
    set(command "${CMAKE_COMMAND}" -E env "GIT_CEILING_DIRECTORIES=${above}" "${DONABE_GIT_EXECUTABLE}" apply -p1 "${patch}")
  else()
    message(FATAL_ERROR "donabe: neither 'patch' nor 'git' was found; one of them is needed to patch the vendored source.")
  endif()
  execute_process(COMMAND ${command} WORKING_DIRECTORY "${tree}" RESULT_VARIABLE rc OUTPUT_VARIABLE log ERROR_VARIABLE log)
  if(NOT rc EQUAL 0)
    message(FATAL_ERROR "donabe: patch ${patch} does not apply (see third_party/ggml/README.md):\n${log}")
  endif()
endfunction()

function(donabe_vendor out)
  set(here "${CMAKE_CURRENT_FUNCTION_LIST_DIR}")
  set(pin "${here}/requirements.txt")
  file(GLOB patches CONFIGURE_DEPENDS "${here}/patches/*.patch")
  list(SORT patches)
  if(DONABE_GGML_UNPATCHED)
    # But for the one without which upstream's programs end on CPUs with AMX, when GCC before 12.4 built them.
    list(FILTER patches INCLUDE REGEX "/0008-cpu-amx")
  endif()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${pin}" ${patches})

  if(DONABE_GGML_SOURCE)
    if(NOT EXISTS "${DONABE_GGML_SOURCE}/include/llama.h")
      message(FATAL_ERROR "donabe: DONABE_GGML_SOURCE=${DONABE_GGML_SOURCE} holds no include/llama.h; give the root of a llama.cpp tree.")
    endif()
    set(${out} "${DONABE_GGML_SOURCE}" PARENT_SCOPE)
    return()
  endif()
  if(EXISTS "${here}/llama.cpp/include/llama.h" AND NOT DONABE_GGML_UNPATCHED)
    set(${out} "${here}/llama.cpp" PARENT_SCOPE)
    return()
  endif()

  file(SHA256 "${pin}" key)
  foreach(patch IN LISTS patches)
    file(SHA256 "${patch}" one)
    string(SHA256 key "${key}${one}")
  endforeach()
  string(SUBSTRING "${key}" 0 16 key)
  donabe_cache_dir(cache)
  set(tree "${cache}/ggml/${key}")
  if(EXISTS "${tree}/include/llama.h")
    set(${out} "${tree}" PARENT_SCOPE)
    return()
  endif()

  string(RANDOM LENGTH 8 nonce)
  set(work "${cache}/ggml/tmp-${key}-${nonce}")
  file(MAKE_DIRECTORY "${work}")
  message(STATUS "donabe: fetching the pinned llama.cpp source through the package index (once, cached in ${cache})")
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all:
            --no-build-isolation --require-hashes -r "${pin}" -d "${work}"
    RESULT_VARIABLE rc OUTPUT_VARIABLE log ERROR_VARIABLE log)
  file(GLOB sdist "${work}/*.tar.gz")
  list(LENGTH sdist n_sdist)
  if(NOT rc EQUAL 0 OR NOT n_sdist EQUAL 1)
    file(REMOVE_RECURSE "${work}")
    message(FATAL_ERROR
      "donabe: the pinned llama.cpp source could not be obtained from the package index.\n${log}\n"
      "Check that 'pip download llama-cpp-python==0.3.36 --no-deps --no-binary :all:' works on this machine (index, proxy, "
      "certificates), or unpack that sdist yourself and pass -DDONABE_GGML_SOURCE=<sdist>/vendor/llama.cpp "
      "(pip: -C cmake.define.DONABE_GGML_SOURCE=...).")
  endif()
  execute_process(COMMAND "${CMAKE_COMMAND}" -E tar xzf "${sdist}" WORKING_DIRECTORY "${work}" RESULT_VARIABLE rc)
  file(GLOB unpacked "${work}/*/vendor/llama.cpp")
  if(NOT rc EQUAL 0 OR NOT EXISTS "${unpacked}/include/llama.h")
    file(REMOVE_RECURSE "${work}")
    message(FATAL_ERROR "donabe: the sdist was unpacked but holds no vendor/llama.cpp; is the pin in requirements.txt right?")
  endif()
  foreach(patch IN LISTS patches)
    donabe_apply_patch("${unpacked}" "${patch}")
  endforeach()
  # Two configures may run at once: whoever renames first wins, the other uses that tree.
  file(RENAME "${unpacked}" "${tree}" RESULT renamed)
  file(REMOVE_RECURSE "${work}")
  if(NOT EXISTS "${tree}/include/llama.h")
    message(FATAL_ERROR "donabe: could not place the source at ${tree}: ${renamed}")
  endif()
  set(${out} "${tree}" PARENT_SCOPE)
endfunction()

donabe_vendor(DONABE_GGML_DIR)
message(STATUS "donabe: llama.cpp source: ${DONABE_GGML_DIR}")

# ggml builds its shader compiler as a project of its own, whose cache takes no other source folder: begin anew with one.
if(DEFINED CACHE{DONABE_GGML_DIR_BEFORE} AND NOT "$CACHE{DONABE_GGML_DIR_BEFORE}" STREQUAL "${DONABE_GGML_DIR}")
  file(GLOB_RECURSE nested LIST_DIRECTORIES true "${CMAKE_BINARY_DIR}/vendor/*-shaders-gen-prefix")
  list(FILTER nested INCLUDE REGEX "-shaders-gen-prefix$")
  if(nested)
    file(REMOVE_RECURSE ${nested})
  endif()
endif()
set(DONABE_GGML_DIR_BEFORE "${DONABE_GGML_DIR}" CACHE INTERNAL "The source of the last configuration")
