"""What the code of a factory may not do, because what it reads or runs could not be pinned.

A static reading, file by file: it names what honest code would do (load a file, import by a
computed name, ask the environment). It is no sandbox: whoever writes the pinned code could hide
such a call from it, and the run's own checks (:mod:`.importing`) are the second line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

_CODE = "loads code that no reading of the source can follow"
_FILES = "reads or loads what compsec.lock does not pin"
_PROCESS = "depends on, or changes, the state of the process or the machine"
_ADVICE = (
    "A factory only builds the untrained module, from code that it imports by name; the weights "
    "come from 'weights:'"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MODULES = {
    **dict.fromkeys(
        _words("importlib imp _imp runpy pkgutil zipimport builtins code codeop marshal"), _CODE
    ),
    **dict.fromkeys(
        _words(
            "pickle _pickle shelve dbm sqlite3 dill cloudpickle joblib safetensors h5py pandas "
            "mmap zipfile tarfile gzip bz2 lzma fileinput linecache configparser glob posix nt _io "
            "datasets huggingface_hub requests httpx urllib urllib3 http ftplib socket shutil "
            "tempfile imageio cv2"
        ),
        _FILES,
    ),
    **dict.fromkeys(
        _words(
            "ctypes _ctypes cffi subprocess multiprocessing site gc threading asyncio signal "
            "atexit secrets uuid getpass platform unittest"
        ),
        _PROCESS,
    ),
}
#: Of the modules above, those that are refused as an attribute of any other module too.
_MODULES_ANYWHERE = _words("importlib builtins pickle marshal subprocess ctypes runpy")
_NAMES = {
    **dict.fromkeys(
        _words(
            "torch.hub torch.package torch.utils.cpp_extension torch.utils.model_zoo "
            "torch.ops.load_library torch.classes.load_library"
        ),
        _CODE,
    ),
    **dict.fromkeys(
        _words(
            "torch.load torch.jit.load torch.export.load torch.serialization torch.from_file "
            "numpy.load numpy.loadtxt numpy.genfromtxt numpy.fromfile numpy.memmap "
            "numpy.fromregex numpy.lib.npyio numpy.DataSource io.open io.open_code io.FileIO "
            "codecs.open tokenize.open scipy.io skimage.io torchvision.io logging.config "
            "xml.etree.ElementTree.parse"
        ),
        _FILES,
    ),
    **dict.fromkeys(
        _words(
            "torch.set_default_dtype torch.set_default_device torch.set_default_tensor_type "
            "torch.set_num_threads torch.use_deterministic_algorithms torch.manual_seed torch.seed "
            "random.SystemRandom time.time time.time_ns time.localtime time.gmtime time.strftime "
            "datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today "
            "datetime.date.today"
        ),
        _PROCESS,
    ),
}
# Most of these two modules reads files, the environment or the interpreter, so what is harmless
# is listed instead.
_HARMLESS = {
    "os": _words("path PathLike fspath sep"),
    "sys": _words(
        "version_info platform maxsize float_info byteorder stdout stderr version hexversion"
    ),
}
_HARMLESS_PATHS = _words("join basename dirname split splitext normpath sep")
#: ``getattr`` with a computed name could reach every refused name of these.
_NO_COMPUTED_NAMES = _words("torch numpy os sys io codecs builtins torch.jit torch.ops tokenize")
_BUILTINS = {
    **dict.fromkeys(_words("exec eval compile __import__ __builtins__ __loader__"), _CODE),
    **dict.fromkeys(_words("open input breakpoint"), _FILES),
}
_METHODS = {
    **dict.fromkeys(
        _words(
            "open read_text read_bytes from_pretrained load_state_dict_from_url from_file fromfile "
            "exists is_file is_dir iterdir rglob"
        ),
        _FILES,
    ),
}
#: Stands before names that a relative import brought.
_LOCAL = "<local>"
_ATTRIBUTES = _words(
    "__globals__ __builtins__ __subclasses__ __loader__ __import__ __code__ f_globals f_builtins"
)


def refused_constructs(
    tree: ast.Module, local_tops: frozenset[str] = frozenset()
) -> tuple[tuple[int, str], ...]:
    """Line and reason of everything in a file that is refused, in the order of the lines.

    ``module.eval()``, ``re.compile``, ``torch.compile`` and names that the file itself defines are
    fine; so is what stands below ``if TYPE_CHECKING``. ``local_tops`` are first names of
    modules beside ``compsec.yaml``, which are read themselves, whatever else has their name.
    """
    reader = _Reader(tree, local_tops)
    reader.visit(tree)
    return tuple(dict.fromkeys(sorted(reader.found)))


def without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but the bodies of ``if TYPE_CHECKING``, which never run."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(tree, ast.If) and child in tree.body and _is_type_checking(tree.test):
            continue
        yield from without_type_checking(child)


def _is_type_checking(test: ast.expr) -> bool:
    if isinstance(test, ast.Attribute):
        return test.attr == "TYPE_CHECKING" and ast.unparse(test.value) in ("typing", "t")
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


class _Reader(ast.NodeVisitor):
    def __init__(self, tree: ast.Module, local_tops: frozenset[str]) -> None:
        self.found: list[tuple[int, str]] = []
        nodes = list(without_type_checking(tree))
        self._bound = set(_bound_names(nodes))
        self._origins = _origins(nodes)
        self._imported = frozenset(
            alias.asname or alias.name.partition(".")[0]
            for node in nodes
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        )
        self._local_tops = local_tops

    def visit_If(self, node: ast.If) -> None:
        if not _is_type_checking(node.test):
            self.generic_visit(node)
            return
        for other in node.orelse:
            self.visit(other)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check_chain(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            chain = f"{node.module}.{alias.name}" if node.module else alias.name
            if alias.name == "*" and node.module in _NO_COMPUTED_NAMES:
                self._refuse(node, f"from {node.module} import *", _FILES)
            elif node.level == 0 or "." in chain:
                self._check_chain(node, chain, local=node.level > 0)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id == "TYPE_CHECKING" and isinstance(node.ctx, ast.Store):
            self._refuse(node, "a TYPE_CHECKING of one's own", _CODE)
        origin = self._origins.get(node.id)
        if origin is not None:
            self._check_chain(node, origin)
        elif node.id in _BUILTINS and node.id not in self._bound:
            self._refuse(node, node.id, _BUILTINS[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in _ATTRIBUTES:
            self._refuse(node, f".{node.attr}", _CODE)
        chain = self._chain(node)
        if not isinstance(node.ctx, ast.Load):
            self._check_change(node, node.value, node.attr)
        if chain is None:
            self.generic_visit(node)
        else:
            self._check_chain(node, chain)
            if chain.endswith(".__dict__"):
                self._refuse(node, chain, _CODE)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in _METHODS:
            chain = self._chain(function)
            if chain is None or _reason(chain) is None:
                self._refuse(node, f".{function.attr}()", _METHODS[function.attr])
        if isinstance(function, ast.Name) and node.args:
            self._check_reflection(node, function.id)
        if isinstance(function, ast.Attribute) and function.attr in ("__setattr__", "__delattr__"):
            for changed in (function.value, *node.args[:1]):
                self._check_change(node, changed, "an attribute")
        self.generic_visit(node)

    def _check_change(self, node: ast.AST, target: ast.expr, name: str) -> None:
        """Refuse to set or delete an attribute of what is imported from outside: both arms, and
        what compares them, share it."""
        chain = self._chain(target)
        root = target
        while isinstance(root, ast.Attribute):
            root = root.value
        if chain is None or not isinstance(root, ast.Name):
            return
        top = chain.partition(".")[0]
        # A name that is imported and then bound anew is the module's own object from there on.
        own = root.id in self._imported and root.id in self._bound
        if not own and top != _LOCAL and top not in self._local_tops:
            self._refuse(node, f"setting {name} of {chain}", _PROCESS)

    def _check_reflection(self, node: ast.Call, function: str) -> None:
        if function in ("setattr", "delattr"):
            self._check_change(node, node.args[0], "an attribute")
        chain = self._chain(node.args[0])
        if chain is None or function not in ("getattr", "vars", "setattr", "delattr"):
            return
        name = node.args[1] if len(node.args) > 1 else None
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            self._check_chain(node, f"{chain}.{name.value}")
        elif chain in _NO_COMPUTED_NAMES:
            self._refuse(node, f"{function}({chain}, ...) with a computed name", _CODE)

    def _chain(self, node: ast.expr) -> str | None:
        """The dotted name that an expression means, when it begins with an imported name."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self._origins:
            return None
        return ".".join([self._origins[node.id], *reversed(parts)])

    def _check_chain(self, node: ast.AST, chain: str, *, local: bool = False) -> None:
        local = local or chain.partition(".")[0] in self._local_tops
        reason = _reason(chain, local=local)
        if reason is not None:
            self._refuse(node, chain, reason)

    def _refuse(self, node: ast.AST, what: str, reason: str) -> None:
        self.found.append((getattr(node, "lineno", 1), f"{what} {reason}. {_ADVICE}"))


def _reason(chain: str, *, local: bool = False) -> str | None:
    parts = chain.split(".")
    if parts[0] in _MODULES and not local:
        return _MODULES[parts[0]]
    for start, part in enumerate(parts):
        if start and part in _MODULES_ANYWHERE:
            return _MODULES[part]
        following = parts[start + 1 : start + 2]
        if part in _HARMLESS and following and following[0] not in _HARMLESS[part]:
            return _PROCESS
        if part == "os" and following == ["path"]:
            leaf = parts[start + 2 : start + 3]
            if leaf and leaf[0] not in _HARMLESS_PATHS:
                return _PROCESS
        for end in range(start + 2, len(parts) + 1):
            if ".".join(parts[start:end]) in _NAMES:
                return _NAMES[".".join(parts[start:end])]
    return None


def _origins(nodes: list[ast.AST]) -> dict[str, str]:
    """What each imported name (or a plain ``name = imported.thing``) stands for, dotted."""
    origins: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                origins[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                origins[alias.asname or alias.name] = f"{base.strip('.')}.{alias.name}".strip(".")
                if node.level:
                    # Not the module of that name outside: a mark keeps the two apart.
                    origins[alias.asname or alias.name] = f"{_LOCAL}.{base.strip('.')}.{alias.name}"
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = ast.unparse(node.value)
            first, _, rest = value.partition(".")
            if first in origins and all(part.isidentifier() for part in value.split(".")):
                origins.setdefault(
                    node.targets[0].id, ".".join(filter(None, [origins[first], rest]))
                )
    return origins


def _bound_names(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg


def top_level_names(tree: ast.Module) -> frozenset[str] | None:
    """Every name that a file may bind at its top level; None where ``import *`` hides some."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            if any(alias.name == "*" for alias in node.names):
                return None
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
    return frozenset(names | set(_bound_names(list(ast.walk(tree)))))
