# Everything that the build takes from outside. Debian packages; reasons stand in docs/architecture.md.
find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(ZLIB REQUIRED)
find_package(nlohmann_json REQUIRED)
find_path(MOESAIC_FMT_INCLUDE fmt/format.h REQUIRED)
find_path(MOESAIC_MINIZIP_INCLUDE minizip/zip.h REQUIRED)
find_path(MOESAIC_HIGHWAY_INCLUDE hwy/highway.h REQUIRED)
find_path(MOESAIC_DLPACK_INCLUDE dlpack/dlpack.h REQUIRED)
find_library(MOESAIC_MINIZIP_STATIC libminizip.a REQUIRED)
find_library(MOESAIC_ZLIB_STATIC libz.a REQUIRED)
find_library(MOESAIC_CRYPTO_STATIC libcrypto.a REQUIRED)

# Static or header-only, so that the executable runs where only libc and libstdc++ are.
add_library(moesaic_dependencies INTERFACE)
target_compile_definitions(moesaic_dependencies INTERFACE FMT_HEADER_ONLY=1)
target_include_directories(moesaic_dependencies SYSTEM INTERFACE ${MOESAIC_FMT_INCLUDE} ${MOESAIC_HIGHWAY_INCLUDE}
                                                                ${MOESAIC_MINIZIP_INCLUDE} ${MOESAIC_DLPACK_INCLUDE})
target_link_libraries(moesaic_dependencies INTERFACE nlohmann_json::nlohmann_json ${MOESAIC_MINIZIP_STATIC}
                                                     ${MOESAIC_ZLIB_STATIC} ${MOESAIC_CRYPTO_STATIC} Threads::Threads
                                                     ${CMAKE_DL_LIBS})

# cuda.h and nvrtc.h are needed to build, never to run: a toolkit, or the PyPI wheels that `make deps` unpacks. A folder
# that an earlier configuration found may be gone.
function(moesaic_find_cuda_header variable header)
  if(${variable} AND NOT EXISTS ${${variable}}/${header})
    unset(${variable} CACHE)
  endif()
  find_path(${variable} ${header}
    HINTS $ENV{MOESAIC_CUDA_INCLUDE} ${CMAKE_SOURCE_DIR}/.deps/cuda/nvidia/cu13/include $ENV{CUDA_HOME}/include
          /usr/local/cuda/include)
  if(NOT ${variable})
    message(FATAL_ERROR "${header} was not found: run `make deps`, or set CUDA_HOME to a toolkit of 12.8 or later")
  endif()
endfunction()
moesaic_find_cuda_header(MOESAIC_CUDA_H cuda.h)
moesaic_find_cuda_header(MOESAIC_NVRTC_H nvrtc.h)
set(MOESAIC_CUDA_INCLUDE ${MOESAIC_CUDA_H} ${MOESAIC_NVRTC_H})
list(REMOVE_DUPLICATES MOESAIC_CUDA_INCLUDE)
