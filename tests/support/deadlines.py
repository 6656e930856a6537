"""Finds waits without a deadline: calls in source text that return only after another party acts.

A test run that hangs on such a call never fails. A wait without a deadline by design is marked on its line with
`# no deadline: WHY`.
"""

import ast
import re
from collections.abc import Iterator

_EXCUSE = "# no deadline: "
_RUNS = ("subprocess.run", "subprocess.check_output", "subprocess.check_call", "subprocess.call")
_WAITS = ("join", "wait", "communicate", "recv")
"""Without an argument each of these waits forever; `str.join` and `socket.recv` always have one."""
_NAMES = (*(name.rpartition(".")[2] for name in _RUNS), *_WAITS, "Thread", "urlopen", "create_connection")
"""Ends of the names that `_fault` knows; other calls are most, and a name takes long to spell."""
_MAY_WAIT = re.compile(rf"(?:{'|'.join(_NAMES)}|Popen)\(|sleep")
"""What the text of each finding contains; a parser takes a hundred times as long."""
_NO_WAIT = ("club", "self")
"""Objects with their own `join` or `wait`, such as a member who joins a club; the waits inside are checked."""
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def endless(source: str, tree: ast.Module | None = None) -> list[str]:
    """Return `LINE: fault` for each wait in `source` that has no deadline and no excuse. `tree` is its syntax tree."""
    if not _MAY_WAIT.search(source):
        return []
    lines = source.splitlines()
    faults = sorted(_faults(tree or ast.parse(source)))
    return [f"{line}: {fault}" for line, fault in faults if _EXCUSE not in lines[line - 1]]


def _faults(tree: ast.Module) -> Iterator[tuple[int, str]]:
    nodes = list(ast.walk(tree))
    coroutines = [node for node in nodes if isinstance(node, ast.AsyncFunctionDef)]
    awaited = {id(node) for coroutine in coroutines for node in ast.walk(coroutine)}
    for node in nodes:
        if isinstance(node, ast.Call) and id(node) not in awaited and (fault := _fault(node)):
            yield node.lineno, fault
        elif isinstance(node, ast.With) and any(_is_popen(item.context_expr) for item in node.items):
            yield node.lineno, "Popen waits without a deadline at the end of the block; use cli.lib.subprocesses"
    sleeping = [node for node in nodes if isinstance(node, ast.While) and "time.sleep(" in ast.unparse(node)]
    for node in nodes if sleeping else ():
        if isinstance(node, _Function) and "monotonic" not in ast.unparse(node):
            inside = {id(inner) for inner in ast.walk(node)}
            for loop in (loop for loop in sleeping if id(loop) in inside):
                yield loop.lineno, "a loop that sleeps and has no deadline"


def _is_popen(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) == "subprocess.Popen"


def _fault(call: ast.Call) -> str | None:
    end = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if not end.endswith(_NAMES):
        return None
    name = ast.unparse(call.func)
    arguments = {item.arg for item in call.keywords}
    if name in _RUNS and "timeout" not in arguments:
        return f"{name} has no timeout"
    passed_on = any(isinstance(item, ast.Starred) for item in call.args)
    if name.endswith("create_connection") and len(call.args) < 2 and not passed_on and "timeout" not in arguments:
        return f"{name} has no timeout"
    if name.endswith("urlopen") and "timeout" not in arguments:
        return f"{name} has no timeout"
    if name == "threading.Thread" and "daemon" not in arguments:
        return "the process waits for this thread at exit: it is no daemon"
    waits = isinstance(call.func, ast.Attribute) and call.func.attr in _WAITS and not call.args and not arguments
    if (waits and name.partition(".")[0] not in _NO_WAIT) or (waits and name.count(".") > 1):
        return f"{name}() has no timeout"
    return None
