# A wheel of what another build folder built: its install component, under the names of the targets that a build has.
add_custom_target(moesaic_shared)
add_custom_target(moesaic_cli)
install(CODE "execute_process(
  COMMAND \"${CMAKE_COMMAND}\" --install \"${MOESAIC_PREBUILT}\" --component wheel --prefix \"\${CMAKE_INSTALL_PREFIX}\"
  COMMAND_ERROR_IS_FATAL ANY)" COMPONENT wheel)
