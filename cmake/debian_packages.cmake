# The Debian packages of the project, by `make deb` (target `deb`): the shared library, what builds against it, and the
# command line; kernels are packages of their own (`moesaic package`). Their components stand in install.cmake.
set(packages ${MOESAIC_LIBRARY_PACKAGE} libmoesaic-dev moesaic)
set(staging ${CMAKE_BINARY_DIR}/package/debian)
find_program(MOESAIC_GZIP gzip)
find_program(MOESAIC_HELP2MAN help2man)

# What Debian wants of every package. Not part of `cmake --install`, which asks for no component by name.
if(MOESAIC_GZIP)
  file(MAKE_DIRECTORY ${staging})
  configure_file(${CMAKE_BINARY_DIR}/package/changelog ${staging}/changelog COPYONLY)
  execute_process(COMMAND ${MOESAIC_GZIP} -9nf ${staging}/changelog COMMAND_ERROR_IS_FATAL ANY)
endif()
foreach(package ${packages})
  install(FILES cmake/debian/copyright ${staging}/changelog.gz DESTINATION share/doc/${package}
          COMPONENT ${package} EXCLUDE_FROM_ALL)
endforeach()
set(overrides share/lintian/overrides)
install(FILES cmake/debian/library.overrides DESTINATION ${overrides} RENAME ${MOESAIC_LIBRARY_PACKAGE}
        COMPONENT ${MOESAIC_LIBRARY_PACKAGE} EXCLUDE_FROM_ALL)
install(FILES cmake/debian/command.overrides DESTINATION ${overrides} RENAME moesaic COMPONENT moesaic EXCLUDE_FROM_ALL)

# The manual page is the command line's own help.
if(MOESAIC_HELP2MAN AND MOESAIC_GZIP)
  add_custom_command(
    OUTPUT ${staging}/moesaic.1.gz DEPENDS moesaic_cli
    COMMAND ${CMAKE_COMMAND} -E env SOURCE_DATE_EPOCH=${MOESAIC_RELEASE_TIME} ${MOESAIC_HELP2MAN} --no-info
            "--name=Mixture-of-Experts layers and the kernels that run them" --output=${staging}/moesaic.1
            $<TARGET_FILE:moesaic_cli>
    COMMAND ${MOESAIC_GZIP} -9nf ${staging}/moesaic.1
    VERBATIM)
  install(FILES ${staging}/moesaic.1.gz DESTINATION share/man/man1 COMPONENT moesaic EXCLUDE_FROM_ALL)
  add_custom_target(manual_page ALL DEPENDS ${staging}/moesaic.1.gz)
  add_custom_target(deb DEPENDS manual_page moesaic_cli moesaic moesaic_shared
    COMMAND ${CMAKE_COMMAND} -E env SOURCE_DATE_EPOCH=${MOESAIC_RELEASE_TIME} ${CMAKE_CPACK_COMMAND} -G DEB
            -B ${CMAKE_BINARY_DIR}/deb --config ${CMAKE_BINARY_DIR}/CPackConfig.cmake
    WORKING_DIRECTORY ${CMAKE_BINARY_DIR} VERBATIM)
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME moesaic)
set(CPACK_PACKAGE_CONTACT "${MOESAIC_MAINTAINER}")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_COMPONENTS_ALL ${packages})
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_THREADS 0)  # as many as there are cores
set(CPACK_DEBIAN_PACKAGE_SOURCE moesaic)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# C++ callers are promised no more than the version that they were compiled with.
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY "=")

string(TOUPPER ${MOESAIC_LIBRARY_PACKAGE} library)
set(CPACK_DEBIAN_${library}_PACKAGE_NAME ${MOESAIC_LIBRARY_PACKAGE})
set(CPACK_DEBIAN_${library}_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_${library}_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/cmake/debian/triggers)
set(CPACK_DEBIAN_${library}_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_${library}_DESCRIPTION "Mixture-of-Experts layers on NVIDIA GPUs and CPUs - library
Routing, grouped matrix products with activation, weighted sum and shared
experts of large language models, with quantised weights, by a C and a C++
interface. Kernels are compiled by NVRTC on the machine that needs them, or
come from a package moesaic-kernels-*; neither is needed on a CPU.")

set(CPACK_DEBIAN_LIBMOESAIC-DEV_PACKAGE_NAME libmoesaic-dev)
set(CPACK_DEBIAN_LIBMOESAIC-DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_LIBMOESAIC-DEV_PACKAGE_DEPENDS "${MOESAIC_LIBRARY_PACKAGE} (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_LIBMOESAIC-DEV_PACKAGE_RECOMMENDS "libminizip-dev, zlib1g-dev, libssl-dev")  # of the static library
set(CPACK_DEBIAN_LIBMOESAIC-DEV_DESCRIPTION "Mixture-of-Experts layers on NVIDIA GPUs and CPUs - headers
Headers, the static library, and what CMake and pkg-config need to build
programs with Moesaic.
Programs that link the static library also link what this package recommends.")

set(CPACK_DEBIAN_MOESAIC_PACKAGE_NAME moesaic)
set(CPACK_DEBIAN_MOESAIC_PACKAGE_SECTION utils)
set(CPACK_DEBIAN_MOESAIC_DESCRIPTION "Mixture-of-Experts layers on NVIDIA GPUs and CPUs - command line
Runs and measures layers of checkpoints, converts them to other number
formats, compiles kernels ahead of time into bundles and packages, and says
what serves on this machine and why the rest does not.")
include(CPack)
