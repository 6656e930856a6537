"""Invariants of the source: imports between modules, what a component may use, and names."""

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from offline.mock_engine import ROOT, Evaluation
from tests.support.invariants import everything, kind
from tests.support.programs import ALERTS, BACKUP, BLOBS, CLUBS, EXISTING, cluster, run, shared

COMPONENTS = ROOT / "components"
MODULES = sorted(path for path in COMPONENTS.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in MODULES]

LAYERS = (
    {"program"},
    {"pds", "cluster"},
    {"outputs"},
    {"host", "server", "edge", "operations", "people"},
    {"notices"},
    {"connection", "nomad_target", "secret_values"},
    {"dynamic"},
    {"clients"},
    {"render"},
    {"settings"},
    {"takeover"},
)
"""From top to bottom. A module imports from its own folder and from lower layers only; `components/__init__.py` shows
the same list."""

INSIDE = {
    "clients": {"settings", "takeover"},
    "render": {"settings", "takeover"},
    "dynamic": {"clients", "settings"},
    "settings": set[str](),
    "takeover": set[str](),
}
"""What a layer may import, if it is less than all lower layers."""

READS_ITS_OWN_FILES = {
    "components/render/cluster/agents.py",
    "components/render/cluster/user_data.py",
    "components/render/host/cloud_init.py",
    "components/render/host/nomad_agent.py",
    "components/render/metrics/files.py",
    "components/render/scripts/__init__.py",
    "components/settings/checks/pds_env.py",
    "components/settings/checks/handles.py",
}
"""Modules that read files beside them."""

TOUCHES = re.compile(
    r"^(pulumi\.Config|pulumi\.get_(stack|project)|pulumi\.runtime.*|os\..*|time\..*|datetime\..*|date\..*|open|input|print"
    r"|.*\.(read_text|read_bytes|write_text|write_bytes|open|exists|mkdir|unlink|glob|iterdir)|random\.(?!RandomPassword$).*|secrets\.\w+"
    r"|uuid\..*|subprocess\..*|socket\..*|tempfile\..*|urllib\.request\..*)$"
)
"""Calls that use configuration, environment, clock, files, randomness, processes or network."""


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _layer(path: Path) -> str:
    inside = path.relative_to(COMPONENTS)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def _allowed(layer: str) -> set[str]:
    if layer in INSIDE:
        return INSIDE[layer] | {layer}
    [level] = [number for number, layers in enumerate(LAYERS) if layer in layers]
    own = {layer} if layer not in {"connection", "nomad_target", "secret_values"} else LAYERS[level]
    return own.union(*LAYERS[level + 1 :])


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _findings(find: Callable[[Path], set[str]], modules: Iterable[Path] = MODULES) -> dict[str, set[str]]:
    """What `find` finds, by module."""
    found = {str(path.relative_to(ROOT)): find(path) for path in modules}
    assert len(found) > 10
    return {name: findings for name, findings in found.items() if findings}


def test_a_module_imports_only_its_own_folder_and_lower_layers() -> None:
    def forbidden(path: Path) -> set[str]:
        # The engine loads `components/__init__.py` for each dynamic resource.
        allowed = set() if _layer(path) == "__init__" else _allowed(_layer(path))
        return {name.split(".")[1] for name in _imports(_tree(path)) if name.startswith("components.")} - allowed

    assert _findings(forbidden) == {}


def test_the_program_imports_neither_its_tools_nor_its_tests() -> None:
    packages = {"tools", "tests"}
    assert _findings(lambda path: {name.split(".")[0] for name in _imports(_tree(path))} & packages) == {}


def test_settings_and_render_do_not_import_pulumi() -> None:
    modules = [path for path in MODULES if _layer(path) in ("render", "settings") and path.name != "from_pulumi.py"]
    found = _findings(
        lambda path: {name for name in _imports(_tree(path)) if name.split(".")[0].startswith("pulumi")}, modules
    )
    assert found == {}, "text is a pure function of known values"


def test_pickled_providers_need_only_the_standard_library_and_pulumi() -> None:
    def packages(path: Path) -> set[str]:
        direct = ast.Module([node for node in _tree(path).body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        found = {module.split(".")[0] for module in _imports(direct)}
        return found - set(sys.stdlib_module_names) - {"pulumi", "components"}

    loaded = [path for path in MODULES if _layer(path) in ("dynamic", "clients") and path.name != "resources.py"]
    assert _findings(packages, loaded) == {}, "the engine loads it for every operation"


def _calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
        elif isinstance(node, ast.Attribute) and node.attr in ("environ", "argv"):
            yield from {ast.unparse(node)} & {"os.environ", "sys.argv"}


def _touched(path: Path) -> set[str]:
    """The calls that use more than the arguments, without those that the module may make."""
    name = str(path.relative_to(ROOT))
    touched = {call for call in _calls(_tree(path)) if TOUCHES.match(call)}
    if name == "components/settings/from_pulumi.py":  # it reads only the configuration, and the file that it is from
        return {call for call in touched if not call.startswith("pulumi.") and call != "path.read_bytes"}
    if name == "components/cluster.py":  # its account stops an `up` for what is only a warning in a preview
        return touched - {"pulumi.runtime.is_dry_run"}
    if name in READS_ITS_OWN_FILES:
        source = path.read_text()
        assert source.count("Path(") == source.count("Path(__file__)"), f"{name} reads only files beside it"
        return {call for call in touched if not call.endswith(".read_text")}
    return touched


def test_components_read_no_environment_clock_file_or_network() -> None:
    # The others do I/O by design, in the providers and on the servers, never in a constructor.
    modules = [path for path in MODULES if _layer(path) not in ("clients", "takeover")]
    assert _findings(_touched, modules) == {}


def test_only_dynamic_providers_use_the_clients() -> None:
    users = {
        _layer(path)
        for path in MODULES
        if any(name.startswith("components.clients.") for name in _imports(_tree(path)))
    }
    assert users == {"dynamic", "clients"}, "a component that queries the network would do it at every preview"


def _component_classes() -> list[tuple[str, ast.ClassDef]]:
    return [
        (name, node)
        for path, name in zip(MODULES, NAMES, strict=True)
        for node in _tree(path).body
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base) == "pulumi.ComponentResource" for base in node.bases)
    ]


CLASSES = _component_classes()


def _constructor(node: ast.ClassDef) -> ast.FunctionDef:
    (init,) = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    return init


def test_every_component_class_is_covered() -> None:
    assert len(CLASSES) == 29, "a new component class changes this count"


@pytest.mark.parametrize(("module", "node"), CLASSES, ids=[node.name for _module, node in CLASSES])
def test_a_component_has_the_usual_token_signature_and_args_class(module: str, node: ast.ClassDef) -> None:
    constructor = _constructor(node)
    registered = f"super().__init__('pds:index:{node.name}', name, None, opts)"
    assert registered in [ast.unparse(item) for item in constructor.body], "the type token is the class's name"
    arguments = [argument.arg for argument in constructor.args.args]
    assert arguments == ["self", "name", "args", "opts"], "every component has this signature"
    args_class = ast.unparse(constructor.args.args[2].annotation or ast.Constant(""))
    definitions = [
        item for item in _tree(ROOT / module).body if isinstance(item, ast.ClassDef) and item.name == args_class
    ]
    assert definitions, f"{args_class} is in the same file"
    assert "dataclass(frozen=True, kw_only=True)" in [ast.unparse(item) for item in definitions[0].decorator_list]
    last = ast.unparse(constructor.body[-1])
    assert last.startswith("self.register_outputs("), "otherwise the engine never shows the component as complete"
    assert ast.get_docstring(node), "a component has a docstring"


@pytest.mark.parametrize(("module", "node"), CLASSES, ids=[node.name for _module, node in CLASSES])
def test_a_component_does_not_pass_the_caller_s_options_to_its_children(module: str, node: ast.ClassDef) -> None:
    uses = [item for item in ast.walk(_constructor(node)) if isinstance(item, ast.Name) and item.id == "opts"]
    assert len(uses) == 1, "the caller's options go only to super().__init__"


def test_a_component_is_created_in_its_own_folder_or_by_what_composes_a_stack() -> None:
    homes = {node.name: Path(module).parent for module, node in CLASSES}
    created = {
        (call, Path(name))
        for path, name in zip(MODULES, NAMES, strict=True)
        for call in _calls(_tree(path))
        if call in homes
    }
    composing = {Path("components/pds.py"), Path("components/cluster.py")}
    elsewhere = {
        (call, str(file)) for call, file in created if homes[call] not in file.parents and file not in composing
    }
    assert elsewhere == set(), "`pds.py` and `cluster.py` pass values between folders"
    assert {call for call, _file in created} == homes.keys(), "every component is created somewhere"


def test_every_component_registers_its_outputs(club: Evaluation) -> None:
    components = {item.urn for item in everything(club) if item.type.startswith("pds:index:")}
    assert components <= club.registered.keys(), "a component without outputs in the state"


def test_type_tokens_match_the_component_classes(club: Evaluation) -> None:
    every = [
        *everything(club),
        *everything(run(alerts=ALERTS, backup=BACKUP, metrics={"store": True}, **CLUBS)),
        *everything(run(blobs=BLOBS)),
    ]
    every += [*everything(shared()), *everything(run(**EXISTING)), *everything(cluster())]
    tokens = {item.type for item in every if item.type.startswith("pds:")}
    assert tokens == {f"pds:index:{node.name}" for _module, node in CLASSES}


def test_a_child_is_named_after_its_parent_and_its_role(dev: Evaluation) -> None:
    parents = {item.urn: item.name for item in everything(dev)}
    sizes = [str(dev.one("pds-host-droplet").inputs[key]) for key in ("size", "region", "image")]
    for item in dev.resources:
        parent = parents.get(item.parent)
        assert parent is None or item.name.startswith(f"{parent}-"), (
            f"{item.name} does not begin with its parent's name"
        )
        assert not any(size in item.name for size in sizes), f"{item.name}: a changed value would rename the resource"
        assert not re.search(r"\d", item.name), f"{item.name}: a name has a role, not a number"
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", item.name), f"{item.name}: a name is lower case with hyphens"


def test_outputs_are_in_snake_case_like_options(dev: Evaluation) -> None:
    names = [*dev.outputs, *(key for outputs in dev.registered.values() for key in outputs)]
    assert [name for name in names if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", name)] == [], (
        "outputs are in snake_case"
    )


def test_the_program_has_no_nomad_invokes() -> None:
    calls = {call for path in MODULES for call in _calls(_tree(path)) if re.match(r"nomad\.get_", call)}
    assert calls == set(), "an invoke fails every preview while Nomad is unreachable"


def test_every_nomad_resource_uses_the_target_s_options() -> None:
    for path in MODULES:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Call) and re.fullmatch(r"nomad\.[A-Z]\w+", ast.unparse(node.func)):
                name = ast.unparse(node.func)
                if name.endswith("Args") or name == "nomad.Provider":
                    continue
                options = [ast.unparse(item.value) for item in node.keywords if item.arg == "opts"]
                assert options, f"{name} in {path.name} has no options"
                assert re.search(r"\.options\(self\b", options[0]), f"{name} in {path.name}: {options[0]}"


def test_the_dev_stack_uses_only_the_known_packages(dev: Evaluation) -> None:
    assert "Variable" in {kind(item) for item in everything(dev)}
    assert {item.type.split(":")[0] for item in dev.resources} == {
        "pds", "digitalocean", "tls", "random", "nomad", "pulumi", "pulumi-python",
    }  # fmt: skip
