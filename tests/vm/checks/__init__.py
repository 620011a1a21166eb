"""The checks, in the order in which they run. Each is a function that takes the run and raises if something is not as
it should be; what it returns is the row's remark."""

CHECKS = []


class Skip(Exception):
    """The product has no such thing to check; says why."""


def check(function):
    """Registers `function`; its name, with its file's, is the check's."""
    CHECKS.append(function)
    return function


def need(condition, said):
    if not condition:
        raise AssertionError(said)
