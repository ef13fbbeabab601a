"""The web pages: training runs, data, chats, evaluations and servers. State lives in processes and files."""
