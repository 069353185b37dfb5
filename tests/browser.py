"""A mark for tests that look at pages in a real browser."""

import os

import pytest

from tests.devtools import CHROMIUM

if CHROMIUM is None and "chromium" in os.environ.get("CHARLM_TEST_REQUIRES", ""):
    pytest.fail("chromium is required here and was not found", pytrace=False)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: chromium")
