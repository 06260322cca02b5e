"""What survives a crash: files, the workspace, the event log, the registry, bundles, stages, progress."""
