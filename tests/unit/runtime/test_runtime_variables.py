"""What of the engine's environment passes on, and the two forms of a trace."""

import pytest

from eventcore.runtime.variables import pass_on, xray_header


def test_passes_on_what_programs_need_and_no_more():
    needed = {"PATH": "1", "HOME": "2", "LANG": "3", "LC_ALL": "4", "PYTHONPATH": "5", "VIRTUAL_ENV": "6"}
    needed |= {"SSL_CERT_FILE": "7", "SSL_CERT_DIR": "8"}
    others = {"AWS_ACCESS_KEY_ID": "x", "PGPASSWORD": "x", "SSH_AUTH_SOCK": "x", "TMPDIR": "x", "PYTHONSTARTUP": "x"}
    assert pass_on(needed | others) == needed


@pytest.mark.parametrize(
    ("traceparent", "header"),
    [
        (
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=1",
        ),
        (
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=0",
        ),
        ("", ""),
        ("nonsense", ""),
        ("00-short-b7ad6b7169203331-01", ""),
    ],
)
def test_writes_a_trace_as_x_ray_does(traceparent: str, header: str):
    assert xray_header(traceparent) == header
