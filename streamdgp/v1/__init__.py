"""Messages and stubs of the wire contract, generated from ``protos/`` by ``make proto``; do not edit."""
