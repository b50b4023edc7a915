import unittest

from rule import rule
from sdk.fixtures import check_folder


class Fixtures(unittest.TestCase):
    def test_fixtures(self) -> None:
        check_folder(self, rule, "fixtures")


if __name__ == "__main__":
    unittest.main()
