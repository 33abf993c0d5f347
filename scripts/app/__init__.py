"""The page of `folio app`."""
