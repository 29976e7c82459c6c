"""What the scenarios stand on: real servers and processes, faults between them, real clients, and
an oracle that knows what each client must have got."""
