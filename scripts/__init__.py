"""The `folio` command, one module for each subcommand."""
