"""The vocabulary of every room: estimates, units, traces, domains, runs, notices, errors, ports, clocks."""
