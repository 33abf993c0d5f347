"""Clients of the `api` that a file of tests defines."""

import openai
import pytest
from starlette.testclient import TestClient


@pytest.fixture(scope="module")
def http(api):
    with TestClient(api.application(), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(http):
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=http, max_retries=0)
