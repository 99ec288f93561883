"""The runtimes: clocks, sockets, threads and the log around the stages."""
