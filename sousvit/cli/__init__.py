"""The command line. Every command takes ``--json``; user errors are one line on stderr and exit code 2.

Exit codes: 0 done; 2 bad input; 3 no feasible recipe (the nearest miss is written), or a limit is broken, or figures
disagree with those that a recipe recorded; 4 with ``--strict`` where a limit was not shown to hold; 130 interrupted
(resumable).
A command parses, calls a public function of :mod:`sousvit`, and prints what that returns.
"""
