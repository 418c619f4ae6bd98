"""A world, and documents of it, small enough for tests."""

from editguard.pocket.corpus import Amounts
from editguard.pocket.world import WorldSize

SIZE = WorldSize(
    people=60,
    first_names=20,
    last_names=20,
    cities=14,
    countries=4,
    universities=6,
    companies=8,
    languages=6,
    currencies=5,
)
AMOUNTS = Amounts(
    contexts=200, yes_no=50, direct=50, reasoned=50, demonstrations=30, traces=40, items_of_each_task=20, ordinary=20
)
