"""An engine whose source has no tracing in it: what tracing costs while it is off.

The engine's modules are compiled without their `with ... tracing.X(...) as span` lines, and without what they tell the
span. Nothing of the engine may be imported before.
"""

from __future__ import annotations

import ast
from importlib.machinery import SourceFileLoader
from types import CodeType

from tests.benchmarks.measure import Figures

ENGINE = "eventcore.engine."


class _Untraced(ast.NodeTransformer):
    """Takes tracing out of a module."""

    def __init__(self) -> None:
        self.taken = 0

    def visit_With(self, node: ast.With) -> ast.AST | list[ast.stmt]:
        """Leave the body of a traced step alone with itself."""
        self.generic_visit(node)
        call = node.items[0].context_expr
        if not isinstance(call, ast.Call) or "tracing." not in ast.unparse(call.func):
            return node
        self.taken += 1
        return node.body

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """Take out what a span is told."""
        if ast.unparse(node).startswith("span."):
            return ast.Pass()
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Let there be no trace to go on with."""
        return ast.Constant("") if ast.unparse(node) == "span.traceparent" else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Let there be no span to hand on."""
        return ast.Constant(None) if node.id == "span" and isinstance(node.ctx, ast.Load) else node


async def queue_engine(count: int) -> Figures:
    """Run `durable.queue_engine` on such an engine."""
    with_cache, untraced = SourceFileLoader.get_code, _Untraced()

    def get_code(self: SourceFileLoader, fullname: str) -> CodeType | None:
        if not fullname.startswith(ENGINE):
            return with_cache(self, fullname)
        path = self.get_filename(fullname)
        tree = untraced.visit(ast.parse(self.get_data(path)))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    from tests.benchmarks import durable

    figures = await durable.queue_engine(count)
    assert untraced.taken >= 3, "receive, process and settle were traced"
    return figures
