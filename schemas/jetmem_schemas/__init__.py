"""What travels between agents and stages: subjects, events, requests, replies. Imports nothing of ours."""
