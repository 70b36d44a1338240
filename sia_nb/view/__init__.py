"""What people look at: figures, tables and trajectory widgets. Reads run folders through ``store`` and
``trajectory`` only; imports no torch."""
