"""Finds waits without an end: calls in a source text that return only after another party acts.

A run that hangs on one of them has no failure and no name. A wait that is meant to last is marked on its line, with `#
no deadline: WHY`.
"""

import ast
from collections.abc import Iterator

_EXCUSE = "# no deadline: "
_RUNS = ("subprocess.run", "subprocess.check_output", "subprocess.check_call", "subprocess.call")
_WAITS = ("join", "wait", "communicate", "recv")
"""Without an argument each of these waits forever; `str.join` and `socket.recv` always have one."""
_NO_WAIT = ("club", "self")
"""Objects whose `join` or `wait` is a method of ours: a member joins a club, and its waits are checked there."""
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def endless(source: str) -> list[str]:
    """Return `LINE: fault` for each wait in `source` that has no deadline and no excuse."""
    lines = source.splitlines()
    return [f"{line}: {fault}" for line, fault in sorted(_faults(ast.parse(source))) if _EXCUSE not in lines[line - 1]]


def _faults(tree: ast.Module) -> Iterator[tuple[int, str]]:
    coroutines = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    awaited = {id(node) for coroutine in coroutines for node in ast.walk(coroutine)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and id(node) not in awaited and (fault := _fault(node)):
            yield node.lineno, fault
        elif isinstance(node, ast.With):
            for item in node.items:
                if ast.unparse(item.context_expr).startswith("subprocess.Popen("):
                    yield node.lineno, "at the block's end Popen waits for ever; use cli.lib.subprocesses"
        elif isinstance(node, _Function) and "monotonic" not in ast.unparse(node):
            for loop in ast.walk(node):
                if isinstance(loop, ast.While) and "time.sleep(" in ast.unparse(loop):
                    yield loop.lineno, "a loop that sleeps and looks at no clock"


def _fault(call: ast.Call) -> str | None:
    name = ast.unparse(call.func)
    told = {item.arg for item in call.keywords}
    if name in _RUNS and "timeout" not in told:
        return f"{name} has no timeout"
    passed_on = any(isinstance(item, ast.Starred) for item in call.args)
    if name.endswith("create_connection") and len(call.args) < 2 and not passed_on and "timeout" not in told:
        return f"{name} has no timeout"
    if name.endswith("urlopen") and "timeout" not in told:
        return f"{name} has no timeout"
    if name == "threading.Thread" and "daemon" not in told:
        return "the process's end waits for a thread that is no daemon"
    waits = isinstance(call.func, ast.Attribute) and call.func.attr in _WAITS and not call.args and not told
    if (waits and name.partition(".")[0] not in _NO_WAIT) or (waits and name.count(".") > 1):
        return f"{name}() has no timeout"
    return None
