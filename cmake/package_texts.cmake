# What every package says of the project, in one place: Debian packages of the library, and the packages of kernels that
# `moesaic package` writes, for which the texts become part of the executable.
set(MOESAIC_MAINTAINER "Moesaic developers <developers@moesaic.invalid>")
set(MOESAIC_RELEASE_TIME 1767225600)  # of this version, seconds since 1970: packages do not tell when they were built

# string(TIMESTAMP) takes the time from this variable.
set(caller_time $ENV{SOURCE_DATE_EPOCH})
set(ENV{SOURCE_DATE_EPOCH} ${MOESAIC_RELEASE_TIME})
string(TIMESTAMP MOESAIC_RELEASE_DATE "%a, %d %b %Y %H:%M:%S +0000" UTC)
if(caller_time)
  set(ENV{SOURCE_DATE_EPOCH} ${caller_time})
else()
  unset(ENV{SOURCE_DATE_EPOCH})
endif()

configure_file(cmake/debian/changelog.in ${CMAKE_BINARY_DIR}/package/changelog @ONLY)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS LICENSE cmake/debian/copyright)
file(READ LICENSE MOESAIC_LICENSE_TEXT)
file(READ cmake/debian/copyright MOESAIC_DEBIAN_COPYRIGHT)
file(READ ${CMAKE_BINARY_DIR}/package/changelog MOESAIC_DEBIAN_CHANGELOG)
configure_file(cmake/package_texts.cc.in ${CMAKE_BINARY_DIR}/package_texts.cc @ONLY)
