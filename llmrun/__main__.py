"""`python -m llmrun`: the same as `llmrun`."""

from llmrun.cli.app import main

if __name__ == "__main__":
    main()
