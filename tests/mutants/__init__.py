"""Would the unit tests notice? ``make mutants`` changes modules a little and runs their tests.

None of the well-kept tools fits: mutmut leaves out decorated functions and classes, which here are
every operation and every value, cosmic-ray starts a Python for each change, and neither looks into
the shell scripts that stand in our strings.

``modules.yaml`` has the modules, the tests that concern each, and changes that change nothing.
"""
