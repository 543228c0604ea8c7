"""Work items that finish whole or not at all, on Ray; knows neither neurons nor captions."""
