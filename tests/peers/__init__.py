"""Other projects' own code as a function: peer_value(convention, loss, inputs, params) -> dict.

The runners (trl_runner.py, liger_runner.py) call unmodified code of the installed package. TRL 1.16 and
Liger run in this process where they are installed; TRL 1.13 needs its own environment, whose Python
PREFOPT_PEERS_PYTHON names (it may equally hold TRL 1.16), and is asked through a process that stays
up. See bridge.py; cases.py is the table of what is compared.
"""

from peers.bridge import PeerError, PeerUnavailable, peer_value, why_not

__all__ = ["PeerError", "PeerUnavailable", "peer_value", "why_not"]
