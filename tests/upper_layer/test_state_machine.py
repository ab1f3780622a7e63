"""The state machine against a second copy of table 9-10, written by action."""

from __future__ import annotations

from pacsroute.upper_layer.state_machine import ACTIONS, EVENTS, NEXT, RELEASE_COLLISION

STATES = [f"Sta{number}" for number in range(1, 14)]

# PS3.8 table 9-10, read by action: event number to the numbers of the states in which it
# leads to the action.
CELLS = {
    "AE-1": {1: [1]},
    "AE-2": {2: [4]},
    "AE-3": {3: [5]},
    "AE-4": {4: [5]},
    "AE-5": {5: [1]},
    "AE-6": {6: [2]},
    "AE-7": {7: [3]},
    "AE-8": {8: [3]},
    "DT-1": {9: [6]},
    "DT-2": {10: [6]},
    "AR-1": {11: [6]},
    "AR-2": {12: [6]},
    "AR-3": {13: [7, 11]},
    "AR-4": {14: [8, 12]},
    "AR-5": {17: [13]},
    "AR-6": {10: [7]},
    "AR-7": {9: [8]},
    "AR-8": {12: [7]},
    "AR-9": {14: [9]},
    "AR-10": {13: [10]},
    "AA-1": {
        **{number: [2] for number in (3, 4, 10, 12, 13, 19)},
        15: [3, 5, 6, 7, 8, 9, 10, 11, 12],
    },
    "AA-2": {15: [4], 16: [2, 13], 18: [2, 13]},
    "AA-3": {16: [3, 5, 6, 7, 8, 9, 10, 11, 12]},
    "AA-4": {17: [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]},
    "AA-5": {17: [2]},
    "AA-6": {number: [13] for number in (3, 4, 10, 12, 13)},
    "AA-7": {6: [13], 19: [13]},
    "AA-8": {
        3: [3, 6, 7, 8, 9, 10, 11, 12],
        4: [3, 6, 7, 8, 9, 10, 11, 12],
        6: [3, 5, 6, 7, 8, 9, 10, 11, 12],
        10: [3, 5, 8, 9, 10, 11, 12],
        12: [3, 5, 8, 9, 10, 11, 12],
        13: [3, 5, 6, 8, 9, 12],
        19: [3, 5, 6, 7, 8, 9, 10, 11, 12],
    },
}

# The next states of tables 9-6 to 9-9, read by state.
ENDS = {
    "Sta1": ["AE-4", "AR-3", "AR-5", "AA-2", "AA-3", "AA-4", "AA-5"],
    "Sta2": ["AE-5"],
    "Sta3": ["AE-6"],
    "Sta4": ["AE-1"],
    "Sta5": ["AE-2"],
    "Sta6": ["AE-3", "AE-7", "DT-1", "DT-2"],
    "Sta7": ["AR-1", "AR-6"],
    "Sta8": ["AR-2", "AR-7"],
    "Sta11": ["AR-9"],
    "Sta12": ["AR-10"],
    "Sta13": ["AE-8", "AR-4", "AA-1", "AA-6", "AA-7", "AA-8"],
}


def test_every_cell_is_the_standards():
    cells = [
        ((f"Evt{event}", f"Sta{state}"), action)
        for action, events in CELLS.items()
        for event, states in events.items()
        for state in states
    ]
    assert len(cells) == len(dict(cells))
    assert dict(cells) == ACTIONS


def test_every_action_ends_where_the_standard_says():
    ends = {action: state for state, actions in ENDS.items() for action in actions}
    assert ends == NEXT


def test_release_collision_ends_by_role():
    assert RELEASE_COLLISION == {"requestor": "Sta9", "acceptor": "Sta10"}
    assert set(ACTIONS.values()) - set(NEXT) == {"AR-8"}
    assert set(NEXT) <= set(ACTIONS.values())


def test_there_are_13_states_and_19_events():
    assert {state for _, state in ACTIONS} == set(STATES)
    assert {event for event, _ in ACTIONS} == set(EVENTS)
    assert list(EVENTS) == [f"Evt{number}" for number in range(1, 20)]
    assert {*NEXT.values(), *RELEASE_COLLISION.values()} == set(STATES)


def test_every_pdu_has_an_action_wherever_there_is_a_connection():
    received = ["Evt3", "Evt4", "Evt6", "Evt10", "Evt12", "Evt13", "Evt16", "Evt19"]
    connected = [state for state in STATES if state not in ("Sta1", "Sta4")]
    for state in connected:
        for event in [*received, "Evt17"]:
            assert (event, state) in ACTIONS
    assert not [
        event for event in received for state in ("Sta1", "Sta4") if (event, state) in ACTIONS
    ]
