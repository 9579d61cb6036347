"""Requests that wait, taken in turns between clients; one client's come in their order."""

from collections import OrderedDict, deque
from collections.abc import Iterator

from worker.inference.ticket import Ticket


class FairQueue:
    """Waiting requests by client. Not safe for threads by itself."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Ticket]:
        return (ticket for tickets in self._waiting.values() for ticket in tickets)

    def put(self, ticket: Ticket) -> None:
        """Appends a request to those of its client; a client who comes anew is behind the others."""
        self._waiting.setdefault(ticket.client, deque()).append(ticket)

    def heads(self) -> list[Ticket]:
        """The first request of each client, in the order of turns."""
        return [tickets[0] for tickets in self._waiting.values()]

    def take(self, ticket: Ticket) -> bool:
        """Takes a request out, whose client is then the last in turn; False where it does not wait any more."""
        if ticket not in self._waiting.get(ticket.client, ()):
            return False
        self._remove(ticket)
        if ticket.client in self._waiting:
            self._waiting.move_to_end(ticket.client)
        return True

    def drop_cancelled(self) -> int:
        """Removes requests whose callers have left; returns how many."""
        gone = [ticket for ticket in self if ticket.is_cancelled()]
        for ticket in gone:
            self._remove(ticket)
        return len(gone)

    def clear(self) -> list[Ticket]:
        """Takes all requests out."""
        tickets = list(self)
        self._waiting.clear()
        return tickets

    def displace(self, client: str) -> Ticket | None:
        """Takes the newest request of whoever has most waiting, where that is two more than a newcomer's client has."""
        if not self._waiting:
            return None
        counts = {name: len(tickets) for name, tickets in self._waiting.items()}
        heaviest = max(counts, key=lambda name: counts[name])
        if counts[heaviest] < counts.get(client, 0) + 2:
            return None
        ticket = self._waiting[heaviest][-1]
        self._remove(ticket)
        return ticket

    def _remove(self, ticket: Ticket) -> None:
        tickets = self._waiting[ticket.client]
        tickets.remove(ticket)
        if not tickets:
            del self._waiting[ticket.client]
