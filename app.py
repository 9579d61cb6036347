"""Starts Prefix Studio: `python app.py`, or one role with `python app.py web|dispatcher|inference`."""

if __name__ == "__main__":
    from app.launcher import main

    raise SystemExit(main())
