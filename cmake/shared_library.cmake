# What the shared library exports and what it is called. The layers' objects are compiled with hidden visibility, so
# that of this project only what include/moesaic declares is visible; the version script hides what the static archives
# and the C++ library's templates bring along. Debian's libz.a is compiled for executables (-fPIE): without the script,
# that is with symbols that others could replace, it does not link into a shared library.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS include/moesaic/moesaic.h)
file(STRINGS include/moesaic/moesaic.h abi_line REGEX "^#define MOESAIC_ABI_VERSION [0-9]+$")
string(REGEX REPLACE ".* " "" MOESAIC_ABI_VERSION "${abi_line}")
if(NOT MOESAIC_ABI_VERSION)
  message(FATAL_ERROR "include/moesaic/moesaic.h does not define MOESAIC_ABI_VERSION")
endif()
set(MOESAIC_VERSION_SCRIPT ${CMAKE_SOURCE_DIR}/cmake/exported_symbols.map)
set_target_properties(moesaic_shared PROPERTIES
  OUTPUT_NAME moesaic VERSION ${MOESAIC_ABI_VERSION}.${PROJECT_VERSION} SOVERSION ${MOESAIC_ABI_VERSION}
  LINK_DEPENDS ${MOESAIC_VERSION_SCRIPT})
target_link_options(moesaic_shared PRIVATE -Wl,--version-script=${MOESAIC_VERSION_SCRIPT})
