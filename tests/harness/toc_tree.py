"""The table of contents as persist has it, read through its service."""

import msgspec
import nats.errors

from harness.waiting import until_async
from jetmem.domain import calendar
from jetmem_schemas import subjects, toc
from jetmem_schemas.internal import AppliedReply, AppliedRequest, NodesReply, NodesRequest


async def nodes(line, *ids, tenant="acme"):
    found, left = [], list(ids)
    while True:
        reply = await line.ask("persist", "nodes", NodesRequest(tenant, left), NodesReply, tenant=tenant)
        found += [toc.decode_node(raw) for raw in reply.nodes]
        if not reply.cut:
            return found
        left = left[left.index(found[-1].id) + 1 :]


async def tree(line, tenant="acme"):
    """Every node that is there, by id, from the years down; empty while there is none."""
    found = {}
    level = await nodes(line, tenant=tenant)
    while level:
        found |= {node.id: node for node in level}
        below = [child for node in level for child in node.children]
        level = await nodes(line, *below, tenant=tenant) if below else []
    return found


async def caught_up(line, tenant="acme"):
    """Until every node tells what was said so far."""
    stream = await line.nc.jetstream().stream_info(subjects.MEMORY)
    rseq = await line.covered(stream.state.last_seq, tenant=tenant)

    async def done():
        try:
            reply = await line.ask(
                "summarize", "applied", AppliedRequest(tenant, rseq, 1_000), AppliedReply, tenant=tenant
            )
        except nats.errors.Error:
            return False
        return not reply.late and reply.at["toc"].rseq >= rseq

    await until_async(done, "every node is recorded")


def check(found):
    for name, node in found.items():
        assert all(child in found for child in node.children), name
        above = calendar.parent_of(calendar.parse(name))
        assert above is None or name in found[str(above)].children
    grips = {grip.id for node in found.values() for grip in node.grips}
    assert all(grip in grips for node in found.values() for bullet in node.bullets for grip in bullet.grips)


def levels(found):
    return {level: sum(1 for node in found.values() if node.level == level) for level in toc.LEVELS}


def contents(found):
    return {name: msgspec.structs.replace(node, version=0, seq=0) for name, node in found.items()}
