"""The verb `tasks`."""

from dataclasses import dataclass

from largebatch.cli._output import print_json

__all__ = ["TasksCommand", "show_tasks"]


@dataclass
class TasksCommand:
    """The built-in tasks, what data each needs, and whether it is there.

    Args:
        json: print the table as JSON on stdout.
    """

    json: bool = False


def show_tasks(command: TasksCommand) -> int:
    """Print the table; returns the exit code."""
    from largebatch import tasks
    from largebatch.results import Table

    rows = tasks.available()
    if command.json:
        print_json([vars(row) for row in rows])
        return 0
    columns = ("task", "network", "train", "test", "data", "here")
    cells = [(row.name, row.network, row.train_size, row.test_size, row.data, row.present) for row in rows]
    print(Table(columns, cells).text())
    missing = {row.data: row.where for row in rows if not row.present}
    if missing:
        print("\nhow to get what is not here:")
        print("\n".join(f"  {data}: {where}" for data, where in missing.items()))
    print("\nYour own: largebatch train path/to/file.py:name, where name is a largebatch.core.Task.")
    return 0
