# kernels/** becomes one generated source: the text that NVRTC compiles is part of the library.
file(GLOB_RECURSE kernel_texts CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/kernels/*.h
     ${CMAKE_SOURCE_DIR}/kernels/*.cuh)
list(SORT kernel_texts)
set(MOESAIC_EMBEDDED_KERNELS ${CMAKE_BINARY_DIR}/embedded_kernels.cc)
list(TRANSFORM kernel_texts PREPEND ${CMAKE_SOURCE_DIR}/ OUTPUT_VARIABLE kernel_files)
add_custom_command(
  OUTPUT ${MOESAIC_EMBEDDED_KERNELS}
  COMMAND ${CMAKE_COMMAND} -DROOT=${CMAKE_SOURCE_DIR} "-DTEXTS=${kernel_texts}" -DOUT=${MOESAIC_EMBEDDED_KERNELS}
          -P ${CMAKE_SOURCE_DIR}/cmake/write_embedded.cmake
  DEPENDS ${kernel_files} ${CMAKE_SOURCE_DIR}/cmake/write_embedded.cmake
  VERBATIM)
