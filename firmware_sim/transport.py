"""A Bluetooth controller behind one of Bumble's HCI transports, for a wearable that stands on a real radio.

One wearable a transport. The controller is reset when it is opened and when it is closed, so nothing of an earlier
process is left in it. A link cannot be made to vanish here: out of range means that links are ended, and new ones at
once; the wearable is still heard.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from bumble import core, hci
from bumble.device import Connection, Device, DeviceConfiguration
from bumble.host import Host
from bumble.transport import open_transport
from bumble.transport.common import Transport, TransportSpecError

from gateway.errors import GatewayError, InputRejected

LOG = logging.getLogger(__name__)

OPEN_S = 10.0
"""Opening and resetting: tens of commands of a few ms; a serial controller may boot."""
CLOSE_S = 2.0
PENDING_MAX = 16
"""ACL packets that wait in the host or the controller; more would keep live frames behind old ones."""
KNOWN = "serial:DEVICE,BAUD, usb:INDEX, hci-socket:INDEX, vhci, tcp-client:HOST:PORT, unix:PATH, android-netsim"


class CannotOpen(GatewayError):
    hint = "Is the controller plugged in, free (no bluetoothd or hci driver on it) and yours to open?"


class TransportController:
    """What stands for firmware_sim.radio.CorrectedController in a wearable's Peripheral."""

    def __init__(self, name: str, transport: Transport, host: Host) -> None:
        self.name = name
        self.reachable = True
        self.deaf, self.losing = False, lambda _packet: False  # a real controller loses by itself what it loses
        self.command_s = OPEN_S
        self.transport = transport
        self.host = host
        self._tasks: set[asyncio.Task[None]] = set()

    def bumble_device(self, configuration: DeviceConfiguration) -> Device:
        device = Device(config=configuration, host=self.host)
        device.on(Device.EVENT_CONNECTION, self._end_if_away)
        return device

    def end_links(self) -> None:
        for handle in list(self.host.connections):
            self._end(handle)

    def _end_if_away(self, connection: Connection) -> None:
        if not self.reachable:
            self._end(connection.handle)

    def _end(self, handle: int) -> None:
        command = hci.HCI_Disconnect_Command(
            connection_handle=handle, reason=hci.HCI_ErrorCode.REMOTE_USER_TERMINATED_CONNECTION_ERROR
        )
        task = asyncio.create_task(self._send(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, command: hci.HCI_AsyncCommand) -> None:
        with suppress(core.BaseBumbleError, OSError, TimeoutError):  # it is ending already, or the transport is
            await self.host.send_async_command(command, response_timeout=CLOSE_S)


class TransportRadio:
    """Opened controllers, handed out one to each wearable in their order."""

    def __init__(self, controllers: Sequence[TransportController]) -> None:
        self._controllers = list(controllers)
        self._free = deque(controllers)

    @classmethod
    async def open(cls, names: Sequence[str]) -> "TransportRadio":
        """names: in Bumble's notation. Raises CannotOpen; InputRejected for a transport that Bumble does not know."""
        opened: list[TransportController] = []
        try:
            for name in names:
                opened.append(await open_controller(name))
        except BaseException:
            await cls(opened).close()
            raise
        return cls(opened)

    def wearable(self, name: str) -> TransportController:
        """The next controller. Raises InputRejected where all are taken."""
        if not self._free:
            raise InputRejected(f"no transport is left for {name!r}", hint="Give one --transport for each wearable.")
        return self._free.popleft()

    async def room_towards(self, controller: TransportController, central: hci.Address) -> None:  # noqa: ARG002
        """Until few packets wait for the radio."""
        queue = controller.host.le_acl_packet_queue
        while queue is not None and queue.pending >= PENDING_MAX:
            flowing = asyncio.Event()
            queue.once("flow", flowing.set)
            await flowing.wait()

    async def wait_lost(self) -> str:
        """Until a controller is gone; its transport."""
        ended = {asyncio.ensure_future(c.transport.source.terminated): c.name for c in self._controllers}
        done, _ = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        return ended[next(iter(done))]

    async def close(self) -> None:
        """Every controller is reset and free for another process; one that no longer answers is left."""
        for controller in self._controllers:
            await _close(controller.transport, controller.host)


async def open_controller(name: str) -> TransportController:
    """Opens a transport and resets its controller. Raises CannotOpen and InputRejected."""
    transport: Transport | None = None
    answered = False
    try:
        async with asyncio.timeout(OPEN_S):
            transport = await open_transport(name)
            host = Host(transport.source, transport.sink)
            await host.reset()
        answered = True
        return TransportController(name, transport, host)
    except TransportSpecError as error:
        raise InputRejected(f"transport {name!r}: {error}", hint=f"Known are {KNOWN}.") from None
    except TimeoutError:
        raise CannotOpen(f"transport {name!r}: no controller answers within {OPEN_S:g} s") from None
    except Exception as error:  # each driver (libusb, pyserial, grpc, sockets) has errors of its own
        raise CannotOpen(f"transport {name!r}: {_words(error)}") from None
    finally:
        if transport is not None and not answered:
            await _close(transport, None)


def _words(error: BaseException) -> str:
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error) or type(error).__name__


async def _close(transport: Transport, host: Host | None) -> None:
    with suppress(TimeoutError, OSError, core.BaseBumbleError):
        async with asyncio.timeout(CLOSE_S):
            if host is not None and not transport.source.terminated.done():
                await host.send_sync_command(hci.HCI_Reset_Command())
    with suppress(TimeoutError, OSError, core.BaseBumbleError):
        async with asyncio.timeout(CLOSE_S):
            await transport.close()
