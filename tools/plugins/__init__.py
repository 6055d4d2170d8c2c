"""Stand-ins for Pulumi's resource plugins, for machines that cannot download the real ones."""

# Set by the wrapper of a packaged plugin (package.py): the version to report to the engine.
VERSION_VARIABLE = "AUTOJOIN_PLUGIN_VERSION"
