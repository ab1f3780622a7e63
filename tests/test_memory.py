"""The account of memory: what is taken is given back, and never more than there is."""

import copy
import pickle
import threading

from hypothesis import given
from hypothesis import strategies as st

from pacsroute.memory import FREE, Account, Holding

MOST = 10 * FREE


def test_a_small_holding_is_not_counted():
    account = Account()
    holding = Holding(0, account)
    assert holding.grow(FREE)
    assert account.held == 0
    assert not holding.grow(1)
    assert holding.size == FREE


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3 * FREE)), max_size=40))
def test_the_account_holds_what_its_holdings_have(steps):
    account = Account()
    holdings = [Holding(MOST, account) for _ in range(4)]
    for number, count in steps:
        holding = holdings[number]
        if count % 2:
            holding.grow(count)
        else:
            holding.shrink(min(count, holding.size))
        counted = sum(max(0, one.size - FREE) for one in holdings)
        assert counted <= account.held <= min(MOST, counted + 4 * FREE)
    for holding in holdings:
        holding.close()
    assert account.held == 0


def test_a_refused_growth_changes_nothing_and_others_go_on():
    account = Account()
    large, other = Holding(MOST, account), Holding(MOST, account)
    assert large.grow(MOST)
    assert not large.grow(2 * FREE)
    assert not other.grow(3 * FREE)
    assert other.grow(FREE)
    large.close()
    assert other.grow(3 * FREE)


def test_a_deleted_holding_gives_its_memory_back_once():
    account = Account()
    holding = Holding(MOST, account)
    holding.grow(MOST)
    copies = [copy.deepcopy(holding), pickle.loads(pickle.dumps(holding))]
    assert [one.size for one in copies] == [0, 0]
    del holding, copies
    assert account.held == 0


def test_threads_lose_no_byte():
    account = Account()

    def work():
        for _ in range(300):
            holding = Holding(MOST * 8, account)
            holding.grow(5 * FREE)
            holding.shrink(2 * FREE)
            holding.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert account.held == 0
