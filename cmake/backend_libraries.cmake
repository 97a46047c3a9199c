# ggml as private shared libraries (DONABE_BACKEND_DL) and, with DONABE_PLUGIN, one backend alone for its plug-in wheel.
#
# The core's own libraries get names that no other package's ggml has: the dynamic linker takes a library that is already
# in the process for any other of the same name. Plug-ins find them under these names, already loaded.

if(APPLE)
  set(donabe_origin "@loader_path")
else()
  set(donabe_origin "$ORIGIN")
endif()
set_target_properties(ggml-base PROPERTIES OUTPUT_NAME donabe-ggml-base PUBLIC_HEADER "")
set_target_properties(ggml PROPERTIES OUTPUT_NAME donabe-ggml PUBLIC_HEADER "")
foreach(target ggml-base ggml ${GGML_AVAILABLE_BACKENDS})
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "${donabe_origin}")
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    # A symbol that nobody provides is an error here, and not on a user's machine.
    target_link_options(${target} PRIVATE -Wl,--no-undefined)
  endif()
endforeach()

# CMAKE_CXX_VISIBILITY_PRESET is not for CUDA and HIP. Variables of templates would be one with those of any other ggml or CUB
# in the process: the linker makes them unique, however a library was opened.
if(TARGET ggml-cuda)
  set_target_properties(ggml-cuda PROPERTIES CUDA_VISIBILITY_PRESET hidden)
endif()
if(TARGET ggml-hip)
  set_target_properties(ggml-hip PROPERTIES HIP_VISIBILITY_PRESET hidden)
endif()

if(NOT DONABE_PLUGIN)
  return()
endif()

set(plugin_target "ggml-${DONABE_PLUGIN}")
if(NOT TARGET ${plugin_target})
  message(FATAL_ERROR "donabe: DONABE_PLUGIN=${DONABE_PLUGIN} needs -DGGML_<NAME>=ON; the presets set it (see docs/install.md).")
endif()
set(DONABE_PLUGIN_PACKAGE "donabe_${DONABE_PLUGIN}" CACHE STRING "The Python package that the plug-in is installed into")
set(DONABE_PLUGIN_PRELOAD "" CACHE STRING "Libraries of other packages to open first, relative to site-packages")
string(REGEX REPLACE "^donabe_" "" plugin_name "${DONABE_PLUGIN_PACKAGE}")
list(TRANSFORM DONABE_PLUGIN_PRELOAD REPLACE "(.+)" "\"\\1\"" OUTPUT_VARIABLE plugin_preload)
list(JOIN plugin_preload ", " plugin_preload)
# What the loader compares and opens; nothing of a plug-in is imported or loaded before that.
file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/plugin.json" @ONLY CONTENT [[{
  "name": "@plugin_name@",
  "version": "@PROJECT_VERSION@",
  "build_id": "@build_id@",
  "library": "lib/@CMAKE_SHARED_MODULE_PREFIX@@plugin_target@@CMAKE_SHARED_MODULE_SUFFIX@",
  "preload": [@plugin_preload@]
}
]])
add_custom_target(donabe-plugin ALL DEPENDS ${plugin_target})
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/plugin.json" "${PROJECT_SOURCE_DIR}/third_party/ggml/LICENSES/llama.cpp.txt"
        DESTINATION "${DONABE_PLUGIN_PACKAGE}" COMPONENT donabe)
install(TARGETS ${plugin_target} LIBRARY DESTINATION "${DONABE_PLUGIN_PACKAGE}/lib" COMPONENT donabe
        RUNTIME DESTINATION "${DONABE_PLUGIN_PACKAGE}/lib" COMPONENT donabe)
