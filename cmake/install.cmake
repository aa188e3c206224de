# What `cmake --install` lays out: headers, both libraries, the command line, and what find_package and pkg-config read.
# Nothing in it names the prefix, so an installed tree can be moved.
# Debian's folder for libraries of one processor, whatever the prefix is, as GNUInstallDirs has it for /usr alone: the
# packages (debian_packages.cmake) come from this build folder, too.
if(EXISTS /etc/debian_version AND CMAKE_LIBRARY_ARCHITECTURE)
  set(CMAKE_INSTALL_LIBDIR lib/${CMAKE_LIBRARY_ARCHITECTURE} CACHE PATH "Folder of libraries, below the prefix")
endif()
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
# The components are the Debian packages.
set(MOESAIC_LIBRARY_PACKAGE libmoesaic${MOESAIC_ABI_VERSION})
set(dev COMPONENT libmoesaic-dev)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/moesaic)
# moesaic.h needs DLPack: a copy in a folder of its own, so that it collides with no package's.
set(MOESAIC_DLPACK_INSTALL_DIR ${CMAKE_INSTALL_INCLUDEDIR}/moesaic/third_party)

install(DIRECTORY include/moesaic DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} ${dev})
install(FILES ${MOESAIC_DLPACK_INCLUDE}/dlpack/dlpack.h DESTINATION ${MOESAIC_DLPACK_INSTALL_DIR}/dlpack ${dev})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT license)  # Debian has it in its base system
install(TARGETS moesaic_cli COMPONENT moesaic)

# The binaries of the Python package, beside its modules: where they look for them (pyproject.toml). No links: a wheel
# has none.
install(PROGRAMS $<TARGET_FILE:moesaic_cli> DESTINATION moesaic COMPONENT wheel EXCLUDE_FROM_ALL)
install(FILES $<TARGET_FILE:moesaic_shared> DESTINATION moesaic RENAME libmoesaic.so COMPONENT wheel EXCLUDE_FROM_ALL)

# The shared library contains what it needs; users of the static one link that themselves (moesaicConfig.cmake.in).
target_link_libraries(moesaic PUBLIC
  $<INSTALL_INTERFACE:moesaic::minizip> $<INSTALL_INTERFACE:ZLIB::ZLIB> $<INSTALL_INTERFACE:OpenSSL::Crypto>
  $<INSTALL_INTERFACE:Threads::Threads> $<INSTALL_INTERFACE:${CMAKE_DL_LIBS}>)
set_target_properties(moesaic PROPERTIES EXPORT_NAME static)
set_target_properties(moesaic_shared PROPERTIES EXPORT_NAME moesaic)
set(include_dirs INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} ${MOESAIC_DLPACK_INSTALL_DIR})
install(TARGETS moesaic_shared EXPORT moesaicTargets
        LIBRARY COMPONENT ${MOESAIC_LIBRARY_PACKAGE} NAMELINK_COMPONENT libmoesaic-dev ${include_dirs})
install(TARGETS moesaic EXPORT moesaicStaticTargets ARCHIVE ${dev} ${include_dirs})
foreach(export moesaicTargets moesaicStaticTargets)
  install(EXPORT ${export} NAMESPACE moesaic:: DESTINATION ${package_dir} ${dev})
endforeach()

configure_package_config_file(cmake/moesaicConfig.cmake.in ${CMAKE_BINARY_DIR}/package/moesaicConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor version may change what callers must follow.
write_basic_package_version_file(${CMAKE_BINARY_DIR}/package/moesaicConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/package/moesaicConfig.cmake ${CMAKE_BINARY_DIR}/package/moesaicConfigVersion.cmake
        DESTINATION ${package_dir} ${dev})

file(RELATIVE_PATH MOESAIC_PREFIX_FROM_PC ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
foreach(package moesaic moesaic-static)
  configure_file(cmake/${package}.pc.in ${CMAKE_BINARY_DIR}/package/${package}.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/package/${package}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig
          ${dev})
endforeach()
