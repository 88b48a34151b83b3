"""Every test and scenario may use the harness's fixtures."""

pytest_plugins = [
    "harness.begin_anew_plugin",
    "harness.plugin",
    "harness.scenario_plugin",
    "harness.progress_plugin",
]
