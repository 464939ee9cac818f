"""A command of one's own: give a user items.

Run:  BRIDGE_PLUGINS=examples.shop_commands make demo
Then: .venv/bin/chatbridge publish item.grant user:42 '{"item": "sword"}' --wait 5
"""

from pydantic import BaseModel, Field

from bridge import Command, Effects, command, handles


@command("item.grant", subject="user")
class ItemGrant(BaseModel):
    item: str
    count: int = Field(1, ge=1, le=99)


@handles(ItemGrant)
async def grant(command: Command[ItemGrant]) -> Effects:
    wanted = command.payload
    return Effects().hincrby("items", wanted.item, wanted.count).result(granted=wanted.count)
