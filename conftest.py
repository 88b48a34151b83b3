"""Every test and scenario may use the harness's fixtures."""

pytest_plugins = ["harness.plugin", "harness.scenario_plugin", "harness.progress_plugin"]
