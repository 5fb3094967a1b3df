"""The subscriber's library: typed events from the broker, each once, with times that later clock events amend.

    from gateway.client import Subscriber, Subscription

    with Subscriber(Subscription("broker.example")) as messages:
        for message in messages:
            print(message.event.source, message.event.id)

AsyncSubscriber is the same for asyncio. docs/subscribers.md has examples; nothing of the daemon is imported.
"""

from gateway.client.clocks import Clocks, When
from gateway.client.lives import Lives
from gateway.client.order import InOrder
from gateway.client.seen import Seen
from gateway.client.sifting import Malformed, Received, Sifter
from gateway.client.subscriber import AsyncSubscriber, BrokerRefused, Subscriber, Subscription

__all__ = [
    "AsyncSubscriber",
    "BrokerRefused",
    "Clocks",
    "InOrder",
    "Lives",
    "Malformed",
    "Received",
    "Seen",
    "Sifter",
    "Subscriber",
    "Subscription",
    "When",
]
