"""Where sessions are kept: one module a backend, all with the contract of `stores.base`."""
