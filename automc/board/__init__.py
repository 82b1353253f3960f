"""Studies and the graph in a browser on this machine: `automc board`. Needs the extra `automc[board]`."""
