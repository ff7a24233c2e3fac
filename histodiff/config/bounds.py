"""How large a YAML text may be, judged before anything is built of it.

Five hundred bytes of aliases stand for more nodes than any memory holds, and deep nesting for more
calls than Python allows. Both are counted over the events of the parser, which builds nothing.
"""

from dataclasses import dataclass, field

import yaml

MAX_BYTES = 4 * 2**20
MAX_NODES = 50_000
"""Values of a config, each alias counted as all that it stands for."""
MAX_DEPTH = 50
"""Mappings and lists inside one another."""


class TooLarge(yaml.YAMLError):
    """The text is larger than any config."""


@dataclass
class _Node:
    """A mapping or list that is not complete yet."""

    anchor: str | None
    nodes: int = 1


@dataclass
class _Count:
    """Nodes so far, and what the aliases stand for."""

    open: list[_Node] = field(default_factory=lambda: [_Node(None)])
    named: dict[str, int] = field(default_factory=dict)

    def begin(self, anchor: str | None) -> None:
        self.open.append(_Node(anchor))
        if len(self.open) > MAX_DEPTH:
            raise TooLarge(f"mappings and lists are nested more than {MAX_DEPTH} deep")

    def end(self) -> None:
        done = self.open.pop()
        self.add(done.nodes, done.anchor)

    def add(self, nodes: int, anchor: str | None = None) -> None:
        if anchor:
            self.named[anchor] = nodes
        self.open[-1].nodes += nodes
        if self.open[-1].nodes > MAX_NODES:
            raise TooLarge(f"its aliases and values are more than {MAX_NODES:,} nodes")


def check_bounds(text: str) -> None:
    """Returns if the YAML text is of the size of a config.

    Raises:
        yaml.YAMLError: It is not, an alias is inside of what it stands for, or it is no YAML.
    """
    if len(text) > MAX_BYTES:
        raise TooLarge(f"has {len(text):,} characters, and a config no more than {MAX_BYTES:,}")
    count = _Count()
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            count.begin(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            count.end()
        elif isinstance(event, yaml.AliasEvent):
            name = event.anchor or ""
            if name in {node.anchor for node in count.open}:
                raise TooLarge(f"alias *{name} is inside of what it stands for")
            count.add(count.named.get(name, 1))
        elif isinstance(event, yaml.ScalarEvent):
            count.add(1, event.anchor)
