"""What several test modules share: servers, processes, fakes of the wire."""
