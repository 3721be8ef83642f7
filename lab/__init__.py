"""Disposable real hosts on this machine, for the demo and for the tests.

Nothing here is product code, and no product code knows that it is here.
"""
