# The type stubs of the wheel: made of python/moesaic while it is packed, so that they cannot be older than it. Nothing is
# imported. The Python is scikit-build-core's own, which has mypy.
set(MOESAIC_STUBS ${CMAKE_CURRENT_BINARY_DIR}/stubs)
file(GLOB stubbed CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/python/moesaic/*.py)
install(CODE "
  file(REMOVE_RECURSE \"${MOESAIC_STUBS}\")
  execute_process(COMMAND \"${Python3_EXECUTABLE}\" -c \"from mypy.stubgen import main; main()\" --quiet --include-docstrings
                          -o \"${MOESAIC_STUBS}\" \"$<JOIN:${stubbed},\" \">\"
                  COMMAND_ERROR_IS_FATAL ANY)" COMPONENT wheel)
install(DIRECTORY ${MOESAIC_STUBS}/moesaic DESTINATION . COMPONENT wheel EXCLUDE_FROM_ALL)
