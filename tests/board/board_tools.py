"""A client of the board that asks as a browser on this machine does."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from automc.board import guard
from automc.board.app import application

STUDY = "digits-digits-1"


class Client(TestClient):
    """Sends forms with the token of this process."""

    def __init__(self) -> None:
        super().__init__(application(), base_url="http://127.0.0.1:8765", raise_server_exceptions=False)

    def send_form(self, address: str, **fields: str) -> Any:
        return self.post(address, data={"token": guard.TOKEN, **fields})
